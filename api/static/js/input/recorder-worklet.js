// Runs on the audio thread: posts the microphone's samples in blocks of about a twentieth of a second, so that a live
// answer does not wait for them.

const BLOCK = 16 * 128; // samples

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK);
  #filled = 0;

  /**
   * Called with every quantum of 128 samples of the first channel of the first input.
   * @param {Float32Array[][]} inputs
   */
  process([[channel]]) {
    if (!channel) return true;
    this.#block.set(channel, this.#filled);
    this.#filled += channel.length;
    if (this.#filled === BLOCK) {
      this.port.postMessage(this.#block);
      this.#block = new Float32Array(BLOCK);
      this.#filled = 0;
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
