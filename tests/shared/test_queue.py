"""What a submission puts into the queue."""

from otoscope.types import JobOptions
from shared.jobs.records import NewJob
from tests.shared.conftest import AUDIO, Stores


def test_job_and_queue_entry_are_stored_together(stores: Stores) -> None:
    """One entry for each job, its id, in the order of submission; none for a refused submission."""
    job_ids = [stores.submit(token=token) for token in ("a", "b", "a")]
    assert job_ids[2] == job_ids[0]
    assert stores.queued_ids() == job_ids[:2]


def test_a_submission_that_is_sent_twice_creates_one_job(stores: Stores) -> None:
    """Where its first reply was lost and the job has been finished meanwhile, it stays finished, with one entry."""

    def submit() -> bool:
        made = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound"), "a" * 32))
        assert made.id == "a" * 32
        return made.created

    assert submit()
    stores.claim("a" * 32)
    stores.succeed("a" * 32)
    assert submit(), "the client that lost the first reply has created it"
    assert stores.status("a" * 32) == "succeeded"
    assert stores.queued_ids() == ["a" * 32]
    assert stores.kinds("a" * 32) == ["queued", "running", "succeeded", "result"]
