// Writes a WAV file: 16-bit PCM, which every browser plays and which the server reads without a decoder.
// http://www-mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html

/**
 * @param {Float32Array[]} channels  of the same length; what is beyond full scale is cut off
 * @param {number} rate  Hz
 * @returns {ArrayBuffer}
 */
export function encodeWav(channels, rate) {
  const count = channels.length;
  const frames = channels[0].length;
  const bytes = 2 * count * frames;
  const buffer = new ArrayBuffer(44 + bytes);
  const view = new DataView(buffer);
  /** @type {(at: number, text: string) => void} */
  const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, count, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * count * rate, true);
  view.setUint16(32, 2 * count, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, bytes, true);
  const samples = new Int16Array(frames * count); // little-endian, as every processor that a browser runs on
  channels.forEach((channel, c) => {
    for (let i = 0; i < frames; i += 1)
      samples[i * count + c] = Math.round(32_767 * Math.min(Math.max(channel[i], -1), 1));
  });
  new Int16Array(buffer, 44).set(samples);
  return buffer;
}
