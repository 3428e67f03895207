"""Flame graphs of gateway and worker under load: docs/profile-{gateway,worker}.svg.

    .venv/bin/python bench/profiles.py [--model esc50-light] [--callers 64] [--seconds 8]

Samples Python stacks with py-spy, of threads that hold the interpreter lock: code that waits, or computes without the
lock, is not included. The sounds are Ogg files. The light network is the default, since with it queue and gateway
dominate.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import encoded, model_directory
from bench.lib.stack import stack, submissions

DOCS = Path(__file__).parent.parent / "docs"
PY_SPY = Path(sys.executable).with_name("py-spy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, stack(model_directory(options.model, Path(folder))) as service:
        requests = submissions(service.target, encoded("OGG"))
        arguments = (requests, "callers", options.callers, 2 * options.seconds + 4)
        load = threading.Thread(target=service.load, args=arguments)
        load.start()
        processes = dict(service.processes())
        for name in ("gateway", "worker"):
            command = [PY_SPY, "record", "--gil", "--rate", "250", "--duration", str(options.seconds)]
            picture = DOCS / f"profile-{name}.svg"
            command += ["--output", picture, "--pid", str(processes[name].pid)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            picture.write_text(picture.read_text().replace(f"{DOCS.parent}/", ""))
        load.join()


if __name__ == "__main__":
    main()
