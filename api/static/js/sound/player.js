// The player: the sound itself, and where in it we are. It drives the playhead, once a frame while it plays.

import { chooser } from "../chooser.js";
import { button, h, icon } from "../dom.js";
import { clock } from "../format.js";
import { library } from "../library.js";
import { playhead } from "../playhead.js";
import { settings } from "../settings.js";
import { viewport } from "../viewport.js";

// File name extension -> what people call it.
const KINDS = {
  aif: "AIFF",
  aiff: "AIFF",
  caf: "CAF",
  au: "AU",
  w64: "Wave64",
  flac: "FLAC",
  ogg: "Ogg",
  opus: "Opus",
  mp3: "MP3",
  wav: "WAV",
  m4a: "M4A",
};

/** {element, load(sound, duration), toggle()}; `onLength()` is told when the file's length is known. */
export function player(onLength) {
  const audio = h("audio", { preload: "auto" });
  const play = button("Play", "play", toggle, { quiet: true, class: "primary round" });
  const time = h("span", { class: "time number", text: "0:00.0 / 0:00.0" });
  const loop = button("Loop", "loop", () => settings.set("loop", !settings.get("loop")), {
    quiet: true,
    class: "quiet",
  });
  const mute = button("Mute", "volume", () => (audio.muted = !audio.muted), { quiet: true, class: "quiet" });
  const volume = h("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.05",
    "aria-label": "Volume",
    class: "volume",
    on: {
      input: () => {
        audio.muted = false;
        settings.set("volume", Number(volume.value));
      },
    },
  });
  const words = h("span", {});
  const choose = chooser(() => sound);
  const message = h("p", { class: "message muted", hidden: true }, words, choose);
  const element = h(
    "div",
    { class: "player" },
    play,
    loop,
    time,
    h("span", { class: "loudness" }, mute, volume),
    message,
    audio,
  );

  let sound = null;
  let url = null;
  let known = 0; // seconds, as the server says
  let silent = false; // there is nothing that could be played
  let frame = 0;
  let last = 0; // time of the frame before

  const duration = () => (Number.isFinite(audio.duration) && audio.duration > 0 && !silent ? audio.duration : known);

  function load(next, seconds) {
    known = seconds;
    if (next !== sound || next.url !== url) {
      const at = next === sound ? playhead.time : 0;
      [sound, url] = [next, next.url];
      audio.pause();
      tell(url ? "" : "The server keeps no sound. Choose the file to listen to it.", !url);
      if (url) audio.src = url;
      else audio.removeAttribute("src");
      report(at);
      if (url) audio.currentTime = at;
    } else if (duration() !== playhead.duration) report(silent ? playhead.time : audio.currentTime);
    if (!url) message.hidden = !(sound.job || sound.ended); // a link that is still being opened has no file yet
  }

  function tell(text, missing = false) {
    silent = text !== "";
    words.textContent = text;
    message.hidden = !text;
    choose.hidden = !missing;
    play.disabled = loop.disabled = mute.disabled = volume.disabled = silent;
  }

  function toggle() {
    if (silent) return;
    if (!audio.paused) return audio.pause();
    const [start, end] = bounds();
    if (playhead.time >= end - 0.02 || (settings.get("loop") && playhead.time < start)) audio.currentTime = start;
    audio.play().catch(() => {}); // what is wrong with the file comes as an error event
  }

  /** What is played: the region on show when it loops, else the whole. */
  function bounds() {
    const looped = settings.get("loop") && (viewport.start > 0 || viewport.end < viewport.duration);
    return looped && viewport.start < duration()
      ? [viewport.start, Math.min(viewport.end, duration())]
      : [0, duration()];
  }

  let written = "";
  function report(now) {
    playhead.at(now, duration(), !audio.paused && !audio.ended);
    const text = `${clock(now)} / ${clock(duration())}`;
    if (text !== written) time.textContent = written = text;
  }

  function step() {
    frame = audio.paused ? 0 : requestAnimationFrame(step);
    advance();
  }

  /** One moment of playing: turn back at the end of a loop, turn the page where the cursor leaves what is on show. */
  function advance() {
    const now = audio.currentTime;
    const [start, end] = bounds();
    const crossed = (edge) => last < edge && now >= edge;
    if (settings.get("loop") && crossed(end) && end < duration()) audio.currentTime = start;
    else if (crossed(viewport.end) && viewport.end < viewport.duration) viewport.pan(viewport.end - viewport.start);
    last = now;
    report(audio.currentTime);
  }

  playhead.controlledBy((seconds) => {
    last = seconds;
    if (!silent && audio.readyState > 0) audio.currentTime = seconds;
    report(seconds);
  });
  const events = {
    play: () => {
      last = audio.currentTime;
      frame ||= requestAnimationFrame(step);
    },
    pause: () => report(audio.currentTime),
    seeked: () => report(audio.currentTime),
    timeupdate: () => !audio.paused && document.hidden && advance(), // a page out of sight has no frames
    loadedmetadata: () => {
      report(audio.currentTime);
      onLength();
    },
    durationchange: () => audio.readyState > 0 && report(audio.currentTime),
    ended: () => {
      if (!settings.get("loop")) return report(audio.currentTime);
      audio.currentTime = bounds()[0];
      audio.play().catch(() => {});
    },
    error: () => {
      if (!url) return;
      const kind = KINDS[sound.name.split(".").at(-1).toLowerCase()];
      const broken = audio.error?.code === MediaError.MEDIA_ERR_DECODE;
      tell(
        broken
          ? "The browser cannot decode this file any further. Everything else works."
          : `This browser cannot play ${kind ? `${kind} files` : "this file"}. Everything else works.`,
      );
      report(playhead.time);
    },
    volumechange: () => {
      const off = audio.muted || audio.volume === 0;
      mute.replaceChildren(icon(off ? "muted" : "volume"));
      mute.setAttribute("aria-pressed", String(audio.muted));
      volume.setAttribute("aria-valuetext", off ? "muted" : `${Math.round(100 * audio.volume)} %`);
    },
  };
  for (const [name, listener] of Object.entries(events)) audio.addEventListener(name, listener);
  playhead.addEventListener("state", () => {
    const name = playhead.playing ? "Pause" : "Play";
    play.replaceChildren(icon(name.toLowerCase()));
    play.setAttribute("aria-label", name);
    play.title = `${name} (space)`;
  });
  settings.watch(["volume", "loop"], () => {
    audio.volume = Math.min(Math.max(settings.get("volume"), 0), 1);
    volume.value = String(audio.volume);
    loop.setAttribute("aria-pressed", String(settings.get("loop")));
    loop.title = "Loop: what is on show, or the whole sound";
  });
  events.volumechange();
  library.addEventListener("select", ({ detail }) => detail !== sound && audio.pause());

  return { element, load, toggle, duration };
}
