// Runs beside the audio: hands the microphone's samples on, an eighth of a second or so at a time.

const BLOCK = 48 * 128; // samples

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK);
  #filled = 0;

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
