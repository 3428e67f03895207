// Writes WAV files of 16-bit PCM, which every browser plays and which the server reads without a decoder.
// http://www-mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html

/** Bytes of a WAV file before its samples. */
export const HEADER = 44;

/**
 * The header; the interleaved samples follow it.
 * @param {number} channels
 * @param {number} frames  samples of each channel
 * @param {number} rate  Hz
 * @returns {ArrayBuffer}
 */
export function wavHeader(channels, frames, rate) {
  const header = new DataView(new ArrayBuffer(HEADER));
  const bytes = 2 * channels * frames;
  /** @type {(at: number, text: string) => void} */
  const write = (at, text) => [...text].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  header.setUint32(4, HEADER - 8 + bytes, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, channels, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * channels * rate, true);
  header.setUint16(32, 2 * channels, true);
  header.setUint16(34, 16, true);
  write(36, "data");
  header.setUint32(40, bytes, true);
  return header.buffer;
}

/** A sample as a 16-bit integer; what is beyond full scale is cut off. @param {number} sample */
export const toInt16 = (sample) => Math.round(32_767 * Math.min(Math.max(sample, -1), 1));

/**
 * A file of samples.
 * @param {Float32Array[]} channels  of the same length
 * @param {number} rate  Hz
 * @param {string} name
 */
export function wavFile(channels, rate, name) {
  const [count, frames] = [channels.length, channels[0].length];
  const samples = new Int16Array(frames * count); // little-endian, as every processor that a browser runs on
  channels.forEach((channel, c) => {
    for (let i = 0; i < frames; i += 1) samples[i * count + c] = toInt16(channel[i]);
  });
  return new File([wavHeader(count, frames, rate), samples.buffer], name, { type: "audio/wav" });
}
