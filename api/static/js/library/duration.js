// The length of a sound file, as far as the browser can read it.

const PATIENCE = 2_000; // milliseconds

/**
 * Seconds that its header announces; 0 where the browser cannot read it.
 * @param {File} file
 * @returns {Promise<number>}
 */
export async function announcedDuration(file) {
  const url = URL.createObjectURL(file);
  const audio = new Audio();
  audio.preload = "metadata";
  try {
    return await new Promise((resolve) => {
      setTimeout(() => resolve(0), PATIENCE);
      audio.onerror = () => resolve(0);
      audio.onloadedmetadata = () => resolve(Number.isFinite(audio.duration) ? audio.duration : 0);
      audio.src = url;
    });
  } finally {
    audio.removeAttribute("src");
    URL.revokeObjectURL(url);
  }
}
