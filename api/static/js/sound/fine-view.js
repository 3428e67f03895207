// Keeps the finer spectrogram of what is visible: it is computed again a moment after the visible region has changed.

import { readAudio } from "../edit/audio.js";
import { settings } from "../state/settings.js";
import { viewport } from "../state/viewport.js";
import { finePicture, mixed, repeated } from "./fine.js";
import { isDecodable } from "./peaks.js";

/** @import { PlacedSpectrogram, SoundRegion } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { FinePicture } from "./fine.js" */

const DELAY = 120; // milliseconds without a change before it is computed
const [WIDE, HIGH] = [4, 8]; // px: the model's cells are replaced by finer ones from this size on
const [MOST_COLUMNS, MOST_ROWS] = [1_200, 480];

/** Files that the browser could not decode. @type {WeakSet<File>} */
const unreadable = new WeakSet();

/**
 * The highest frequency of a sound in Hz, where its samples can be read here; otherwise 0.
 * @param {Sound | null} sound
 */
export const highestFrequency = (sound) => (sound && settings.get("fine") && canRead(sound) ? rateOf(sound) / 2 : 0);

/** @param {Sound} sound */
const rateOf = ({ root }) => Math.min(Math.max(root.job?.audio.sample_rate ?? 0, 8_000), 96_000);

/** @param {Sound} sound */
function canRead({ file, root, result }) {
  return Boolean(file && !unreadable.has(file) && root.job?.audio.sample_rate && result && isDecodable(result.duration, root.job.audio.channels ?? 1));
}

/**
 * {picture, update(sound, spectrogram)}.
 * @param {HTMLElement} stage  that the spectrogram is shown in
 * @param {() => void} onPicture  called when there is a new one
 * @param {() => void} onUnreadable  called where the browser cannot decode the file
 */
export function fineView(stage, onPicture, onUnreadable) {
  /** @type {FinePicture | null} */
  let picture = null;
  /** What it is computed of. @type {{file: File, rate: number, spectrogram: PlacedSpectrogram} | null} */
  let source = null;
  /** @type {AbortController | null} */
  let computing = null;
  let timer = 0;
  /** What was last requested: the file, the axis, the region, the size. */
  let requested = "";

  /** Whether the cells of the model's spectrogram are large on the screen. @param {PlacedSpectrogram} spectrogram */
  function isZoomed({ step, matrix }) {
    const { start, end, low, high } = viewport;
    return (stage.clientWidth * step) / (end - start) >= WIDE || stage.clientHeight / matrix.rows / (high - low) >= HIGH;
  }

  /** The part of what is visible that is to be computed; null: none. @returns {SoundRegion | null} */
  function wantedRegion() {
    if (!source) return null;
    const { spectrogram } = source;
    const { start, end, low, high, axis } = viewport;
    const from = isZoomed(spectrogram) ? low : Math.max(axis.shareOf(spectrogram.axis.high), low);
    return from < high - 1e-6 ? { start, end, low: from, high } : null;
  }

  function request() {
    const region = wantedRegion();
    if (picture && (!region || picture.axis !== viewport.axis)) forget();
    if (!region || !source || !stage.clientWidth) return;
    const width = Math.min(Math.round(stage.clientWidth * devicePixelRatio), MOST_COLUMNS);
    const share = (region.high - region.low) / (viewport.high - viewport.low);
    const height = Math.max(Math.round(share * Math.min(stage.clientHeight * devicePixelRatio, MOST_ROWS)), 1);
    const { scale, low, high } = viewport.axis;
    const bands = isZoomed(source.spectrogram) ? undefined : source.spectrogram;
    const wanted = [...Object.values(region), width, height, Boolean(bands), scale, low, high].join();
    if (wanted === requested) return;
    requested = wanted;
    clearTimeout(timer);
    computing?.abort();
    computing = new AbortController();
    const { signal } = computing;
    timer = setTimeout(() => compute(region, { width, height, bands }, signal), DELAY);
  }

  /** @type {(region: SoundRegion, size: Parameters<typeof finePicture>[3], signal: AbortSignal) => Promise<void>} */
  async function compute(region, size, signal) {
    if (!source) return;
    const { file, rate, spectrogram } = source;
    const { axis } = viewport;
    const audio = await readAudio(file, rate).catch(() => null);
    if (!audio) {
      unreadable.add(file);
      if (source?.file === file) onUnreadable();
      return;
    }
    if (signal.aborted) return;
    const samples = repeated(mixed(audio.channels), rate, spectrogram.repetition);
    const found = await finePicture({ rate, channels: [samples] }, axis, region, size, signal);
    if (signal.aborted || !found) return;
    picture = found;
    onPicture();
  }

  function forget() {
    picture = null;
    requested = "";
    clearTimeout(timer);
    computing?.abort();
  }

  viewport.on("change", request);
  new ResizeObserver(request).observe(stage);

  return {
    get picture() {
      return picture;
    },
    /** @type {(sound: Sound | null, spectrogram: PlacedSpectrogram | null) => void} */
    update(sound, spectrogram) {
      const usable = sound && spectrogram && highestFrequency(sound) > 0;
      const next = usable && sound.file ? { file: sound.file, rate: rateOf(sound), spectrogram } : null;
      if (source?.file !== next?.file || source?.spectrogram !== next?.spectrogram) forget();
      source = next;
      request();
    },
  };
}
