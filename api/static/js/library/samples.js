// The sounds that come with the page, synthesised by docs/sounds.py.

/** @type {{name: import("../words.js").Key, file: string}[]} */
export const samples = [
  { name: "sample.siren", file: "siren.flac" },
  { name: "sample.bell", file: "church-bell.flac" },
  { name: "sample.knocking", file: "knocking.flac" },
  { name: "sample.sea", file: "sea.flac" },
  { name: "sample.crickets", file: "crickets.flac" },
  { name: "sample.clock", file: "clock-tick.flac" },
  { name: "sample.rain", file: "rain.flac" },
  { name: "sample.alarm", file: "alarm-clock.flac" },
  { name: "sample.six", file: "six-sounds.flac" },
];
