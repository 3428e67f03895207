// The microphone as a WAV file: uncompressed, since what a browser's own recorder writes differs from browser to browser.

const HEADER = 44; // bytes of a WAV file before its samples

/** Files that were recorded here, and are nowhere else. */
export const recordings = new WeakSet();

/**
 * Begin to record. `onLevel(peak, seconds)` is called while it runs; it stops by itself after so many `seconds` of sound or
 * before the file has more than so many `bytes`.
 * Returns {stop(), discard(), finished}: a promise of the File, or of null when it was discarded. Throws an Error that can be shown.
 */
export async function record({ seconds, bytes, onLevel }) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The browser gives the microphone to secure pages only: open this page by https or on localhost.");
  }
  let stream;
  try {
    // What is built in to make speech clearer would take out what is to be heard here.
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    throw new Error(
      {
        NotAllowedError: "The microphone was not allowed. The browser's address bar is where that can be changed.",
        NotFoundError: "There is no microphone.",
        NotReadableError: "The microphone is taken by another program.",
      }[error.name] ?? `The microphone cannot be used: ${error.message}`,
    );
  }
  const context = new AudioContext();
  function letGo() {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  }
  try {
    await context.audioWorklet.addModule("/static/js/recorder-worklet.js");
  } catch {
    letGo();
    throw new Error("The recording cannot begin: the server does not send the part of this page that records.");
  }
  const source = context.createMediaStreamSource(stream);
  const tap = new AudioWorkletNode(context, "recorder", {
    numberOfOutputs: 0,
    channelCount: 1,
    channelCountMode: "explicit",
  });
  const most = Math.floor(Math.min(seconds * context.sampleRate, (bytes - HEADER) / 2)); // samples
  const blocks = [];
  let length = 0;
  let end;
  const finished = new Promise((resolve, reject) => (end = { resolve, reject }));

  function close() {
    tap.port.onmessage = null;
    source.disconnect();
    letGo();
  }
  function stop() {
    close();
    if (length === 0) end.reject(new Error("Nothing was recorded."));
    else end.resolve(wav(blocks, length, context.sampleRate));
  }
  tap.port.onmessage = ({ data }) => {
    const block = data.subarray(0, most - length);
    blocks.push(block);
    length += block.length;
    onLevel(
      block.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0),
      length / context.sampleRate,
    );
    if (length === most) stop();
  };
  stream.getTracks()[0].addEventListener("ended", stop); // unplugged, or taken back
  source.connect(tap);
  return {
    stop,
    discard: () => {
      close();
      end.resolve(null);
    },
    finished,
  };
}

/** 16-bit mono WAV of Float32Array blocks. */
function wav(blocks, length, rate) {
  const header = new DataView(new ArrayBuffer(HEADER));
  const name = (at, text) => [...text].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  name(0, "RIFF");
  header.setUint32(4, HEADER - 8 + 2 * length, true);
  name(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // one channel
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  name(36, "data");
  header.setUint32(40, 2 * length, true);
  const samples = new Int16Array(length);
  let at = 0;
  for (const block of blocks) {
    for (const sample of block) samples[at++] = Math.max(-1, Math.min(1, sample)) * 32_767;
  }
  const now = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  const file = new File([header.buffer, samples.buffer], `Recording ${now}.wav`, { type: "audio/wav" });
  recordings.add(file);
  return file;
}
