// The sounds that come with the page, synthesised by docs/sounds.py.

export const samples = [
  { name: "Siren", file: "siren.flac" },
  { name: "Church bell", file: "church-bell.flac" },
  { name: "Knocking", file: "knocking.flac" },
  { name: "Sea", file: "sea.flac" },
  { name: "Crickets", file: "crickets.flac" },
  { name: "Clock", file: "clock-tick.flac" },
  { name: "Rain", file: "rain.flac" },
  { name: "Alarm clock", file: "alarm-clock.flac" },
  { name: "Six in a row, 30 s", file: "six-sounds.flac" },
];
