// Plays two sounds at one position: switching from one to the other goes on at the same time.

import { playhead } from "../state/playhead.js";
import { settings } from "../state/settings.js";

/** @import { Sound } from "../library/sound.js" */

/** @typedef {"left" | "right"} Side */

/**
 * {toggle(side), seek(seconds), close()}.
 * @param {Record<Side, Sound>} sounds
 * @param {(seconds: number, playing: Side | null) => void} onMove
 */
export function listening(sounds, onMove) {
  /** @type {Partial<Record<Side, HTMLAudioElement>>} */
  const players = {};
  /** @type {Side | null} */
  let playing = null;
  let time = playhead.time;
  let frame = 0;
  const claimed = playhead.on("claim", (by) => {
    if (by !== players) pause();
  });
  const moved = playhead.on("move", () => {
    if (playing) return;
    time = playhead.time;
    onMove(time, null);
  });

  /** @param {Side} side */
  function playerOf(side) {
    const { url } = sounds[side];
    if (!url) return null;
    return (players[side] ??= new Audio(url));
  }

  function onFrame() {
    const audio = playing && players[playing];
    if (!audio) return;
    if (audio.ended) return pause();
    time = audio.currentTime;
    onMove(time, playing);
    frame = requestAnimationFrame(onFrame);
  }

  function pause() {
    cancelAnimationFrame(frame);
    if (playing) players[playing]?.pause();
    playing = null;
    onMove(time, null);
  }

  return {
    /**
     * Play a side from the position of the other; pressed again, stop.
     * @param {Side} side
     */
    async toggle(side) {
      const was = playing;
      pause();
      const audio = playerOf(side);
      if (was === side || !audio) return;
      playhead.emit("claim", players);
      if (audio.readyState === 0) await new Promise((resolve) => audio.addEventListener("loadedmetadata", resolve, { once: true }));
      audio.currentTime = time >= audio.duration - 0.02 ? 0 : time;
      audio.volume = settings.get("volume");
      playing = side;
      await audio.play().catch(pause);
      if (playing === side) onFrame();
    },
    /** @param {number} seconds */
    seek(seconds) {
      time = seconds;
      const audio = playing && players[playing];
      if (audio) audio.currentTime = seconds;
      onMove(time, playing);
    },
    close() {
      pause();
      claimed();
      moved();
    },
  };
}
