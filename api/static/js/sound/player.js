// The player. It drives the playhead, once a frame while it plays.

import { button, h, icon } from "../view/dom.js";
import { filePicker } from "../input/file-picker.js";
import { clock, formatNumber } from "../view/format.js";
import { library } from "../library/library.js";
import { playhead } from "../state/playhead.js";
import { settings } from "../state/settings.js";
import { viewport } from "../state/viewport.js";
import { t } from "../words.js";

/** @import { Sound } from "../library/sound.js" */

/** Extension of a file name -> name of the format. @type {Record<string, string>} */
const FORMATS = {
  aif: "AIFF",
  aiff: "AIFF",
  caf: "CAF",
  au: "AU",
  w64: "Wave64",
  amr: "AMR",
  wma: "Windows Media",
  wv: "WavPack",
  flac: "FLAC",
  ogg: "Ogg",
  opus: "Opus",
  mp3: "MP3",
  wav: "WAV",
  m4a: "M4A",
};

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2];

/**
 * {element, load(sound, duration), toggle(), duration()}.
 * @param {() => void} onLength  called when the length of the file is known
 */
export function player(onLength) {
  const audio = h("audio", { preload: "auto" });
  const play = button(t("player.play"), "play", toggle, { quiet: true, class: "primary round" });
  const time = h("span", { class: "time number", text: `${clock(0)} / ${clock(0)}` });
  const loop = button(t("player.loop"), "loop", () => settings.set("loop", !settings.get("loop")), {
    quiet: true,
    class: "quiet",
  });
  const mute = button(t("player.mute"), "volume", () => (audio.muted = !audio.muted), { quiet: true, class: "quiet" });
  const volume = h("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.05",
    "aria-label": t("player.volume"),
    class: "volume",
    on: {
      input: () => {
        audio.muted = false;
        settings.set("volume", Number(volume.value));
      },
    },
  });
  const speed = h(
    "select",
    { "aria-label": t("player.speed"), title: t("player.speed"), on: { change: () => settings.set("speed", Number(speed.value)) } },
    SPEEDS.map((one) => h("option", { value: one, text: `${formatNumber(one)} ×` })),
  );
  const text = h("span", {});
  const picker = filePicker(() => sound);
  const message = h("p", { class: "message muted", hidden: true }, text, picker);
  const element = h(
    "div",
    { class: "player" },
    play,
    loop,
    time,
    speed,
    h("span", { class: "volume-control" }, mute, volume),
    message,
    audio,
  );

  /** @type {Sound | null} */
  let sound = null;
  /** @type {string | null} */
  let url = null;
  let knownDuration = 0; // seconds, according to the server
  let unplayable = false;
  let frame = 0;
  let last = 0; // time of the previous frame

  /** The header of a file that was cut announces more than there is, which the server has decoded. */
  const duration = () =>
    Number.isFinite(audio.duration) && audio.duration > 0 && !unplayable
      ? Math.min(audio.duration, knownDuration || Infinity)
      : knownDuration;

  /**
   * @param {Sound} next
   * @param {number} seconds  its duration, according to the server
   */
  function load(next, seconds) {
    knownDuration = seconds;
    if (next !== sound || next.url !== url) {
      const same = next.root === sound?.root; // another version of the same sound goes on where it was
      const at = same ? playhead.time : 0;
      const wasPlaying = same && !audio.paused;
      [sound, url] = [next, next.url];
      audio.pause();
      showMessage(url ? "" : t("player.no_file"), !url);
      if (url) audio.src = url;
      else audio.removeAttribute("src");
      report(at);
      if (url) audio.currentTime = at;
      if (url && wasPlaying) audio.play().catch(() => {});
    } else if (duration() !== playhead.duration) report(unplayable ? playhead.time : audio.currentTime);
    if (!url) message.hidden = !(sound.job || sound.ended); // a link that is still being opened has no file yet
  }

  /**
   * @param {string} content  why the sound cannot be played; empty: it can
   * @param {boolean} [missing]  whether its file is to be chosen
   */
  function showMessage(content, missing = false) {
    unplayable = content !== "";
    text.textContent = content;
    message.hidden = !content;
    picker.hidden = !missing;
    play.disabled = loop.disabled = mute.disabled = volume.disabled = speed.disabled = unplayable;
  }

  function toggle() {
    if (unplayable) return;
    if (!audio.paused) return audio.pause();
    const { start, end } = playedRegion();
    const hidden = playhead.time < viewport.start || playhead.time > viewport.end;
    if (hidden && viewport.start < duration()) audio.currentTime = viewport.start;
    else if (playhead.time >= end - 0.02) audio.currentTime = start;
    audio.play().catch(() => {}); // a broken file is reported by an error event
  }

  /** The visible region when looping, otherwise the whole sound; in seconds. */
  function playedRegion() {
    const looped = settings.get("loop") && (viewport.start > 0 || viewport.end < viewport.duration);
    return looped && viewport.start < duration()
      ? { start: viewport.start, end: Math.min(viewport.end, duration()) }
      : { start: 0, end: duration() };
  }

  let written = "";
  /** @param {number} now  seconds */
  function report(now) {
    const length = duration();
    const at = length ? Math.min(now, length) : now;
    playhead.update(at, length, !audio.paused && !audio.ended);
    const position = `${clock(at)} / ${clock(length)}`;
    if (position !== written) time.textContent = written = position;
  }

  function onFrame() {
    frame = audio.paused ? 0 : requestAnimationFrame(onFrame);
    advance();
  }

  /** While playing: jump back at the end of a loop, and pan on where the cursor leaves the visible region. */
  function advance() {
    const now = audio.currentTime;
    const { start, end } = playedRegion();
    /** @param {number} edge */
    const crossed = (edge) => last < edge && now >= edge;
    if (settings.get("loop") && crossed(end) && end < duration()) audio.currentTime = start;
    else if (crossed(viewport.end) && viewport.end < viewport.duration) viewport.pan(viewport.end - viewport.start);
    last = now;
    report(audio.currentTime);
  }

  playhead.setSeek((seconds) => {
    last = seconds;
    if (!unplayable && url) audio.currentTime = seconds; // before the file is loaded, where it will begin
    report(seconds);
  });
  const onVolume = () => {
    const silent = audio.muted || audio.volume === 0;
    mute.replaceChildren(icon(silent ? "muted" : "volume"));
    mute.setAttribute("aria-pressed", String(audio.muted));
    volume.setAttribute("aria-valuetext", silent ? t("player.muted") : `${Math.round(100 * audio.volume)} %`);
  };
  const events = {
    play: () => {
      playhead.emit("claim", audio);
      last = audio.currentTime;
      frame ||= requestAnimationFrame(onFrame);
    },
    pause: () => report(audio.currentTime),
    seeked: () => report(audio.currentTime),
    timeupdate: () => !audio.paused && document.hidden && advance(), // a hidden page has no frames
    loadedmetadata: () => {
      report(audio.currentTime);
      onLength();
    },
    durationchange: () => audio.readyState > 0 && report(audio.currentTime),
    ended: () => {
      if (!settings.get("loop")) return report(audio.currentTime);
      audio.currentTime = playedRegion().start;
      audio.play().catch(() => {});
    },
    error: () => {
      if (!url || !sound) return;
      const format = FORMATS[sound.name.split(".").at(-1)?.toLowerCase() ?? ""];
      const broken = audio.error?.code === MediaError.MEDIA_ERR_DECODE;
      showMessage(
        broken
          ? t("player.broken")
          : format ? t("player.unplayable_format", { format }) : t("player.unplayable"),
      );
      report(playhead.time);
    },
    volumechange: onVolume,
  };
  for (const [name, listener] of Object.entries(events)) audio.addEventListener(name, listener);
  playhead.on("claim", (by) => by !== audio && audio.pause());
  playhead.on("state", () => {
    const name = t(playhead.playing ? "player.pause" : "player.play");
    play.replaceChildren(icon(playhead.playing ? "pause" : "play"));
    play.setAttribute("aria-label", name);
    play.title = t("player.space", { name });
  });
  settings.watch(["volume", "loop", "speed"], () => {
    const chosen = SPEEDS.includes(settings.get("speed")) ? settings.get("speed") : 1;
    speed.value = String(chosen);
    audio.defaultPlaybackRate = audio.playbackRate = chosen; // the pitch stays: that is the default of browsers
    audio.volume = Math.min(Math.max(settings.get("volume"), 0), 1);
    volume.value = String(audio.volume);
    loop.setAttribute("aria-pressed", String(settings.get("loop")));
    loop.title = t("player.loop.title");
  });
  onVolume();
  library.on("select", (selected) => {
    if (selected !== sound?.root) audio.pause();
  });

  return { element, load, toggle, duration };
}
