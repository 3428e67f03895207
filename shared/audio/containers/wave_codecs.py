"""Codecs by the format tag of a WAVEFORMATEX structure, which WAV, Wave64, AVI and Windows Media files share.

The registered tags are those of RFC 2361; FFmpeg's libavformat/riff.c has the others that are in use.
"""

CODECS = {
    1: "PCM", 2: "Microsoft ADPCM", 3: "float", 6: "A-law", 7: "µ-law", 0x0A: "Windows Media Voice", 0x10: "OKI ADPCM",
    0x11: "IMA ADPCM", 0x17: "OKI ADPCM", 0x20: "Yamaha ADPCM", 0x22: "TrueSpeech", 0x31: "GSM 6.10", 0x38: "AMR-NB",
    0x42: "G.723.1", 0x45: "G.726 ADPCM", 0x50: "MPEG layer II", 0x55: "MPEG layer III", 0x57: "AMR-NB",
    0x59: "G.723.1", 0x64: "G.726 ADPCM", 0x83: "G.729", 0x92: "AC-3", 0xFF: "AAC", 0x111: "G.723.1",
    0x160: "Windows Media 1", 0x161: "Windows Media 2", 0x162: "Windows Media Pro", 0x163: "Windows Media Lossless",
    0x28F: "G.722 ADPCM", 0x1600: "AAC", 0x1602: "AAC", 0x1610: "AAC", 0x2000: "AC-3", 0x4143: "AAC",
    0x5346: "Flash ADPCM", 0x706D: "AAC", 0x87AF: "E-AC-3", 0xA106: "AAC", 0xA109: "Speex", 0xF1AC: "FLAC",
}  # fmt: skip
NAMES = ", ".join(dict.fromkeys(CODECS.values()))
"""For messages."""
DECODERS = {
    "Microsoft ADPCM": ("adpcm_ms",), "OKI ADPCM": ("adpcm_ima_oki",), "IMA ADPCM": ("adpcm_ima_wav",),
    "Yamaha ADPCM": ("adpcm_yamaha",), "TrueSpeech": ("truespeech",), "GSM 6.10": ("gsm_ms",),
    "AMR-NB": ("amrnb", "libopencore_amrnb"), "G.722 ADPCM": ("g722",), "G.723.1": ("g723_1",),
    "G.726 ADPCM": ("g726", "g726le"), "G.729": ("g729",), "MPEG layer II": ("mp2float", "mp2"),
    "MPEG layer III": ("mp3float", "mp3"), "AC-3": ("ac3",), "E-AC-3": ("eac3",), "AAC": ("aac", "aac_latm"),
    "Flash ADPCM": ("adpcm_swf",), "Windows Media 1": ("wmav1",), "Windows Media 2": ("wmav2",),
    "Windows Media Pro": ("wmapro",), "Windows Media Voice": ("wmavoice",), "Windows Media Lossless": ("wmalossless",),
    "FLAC": ("flac",), "Speex": ("speex",),
}  # fmt: skip
"""FFmpeg's decoders of the compressed ones."""
SNDFILE_CODECS = {0x38: "NMS ADPCM", 0x40: "G.721 ADPCM"}
"""In WAV alone, and by libsndfile: FFmpeg lacks the first, and expects the samples of the second in another order."""
NMS_BLOCKS = {2: 42, 3: 62, 4: 82}  # bytes of a block, by bits of a sample; the tag is also in use for AMR
EXTENSIBLE = 0xFFFE  # the actual tag is in the extension
RAW_AAC = 0xFF  # frames without headers, unless a program has put ADTS there

COMPRESSED = tuple(DECODERS)
ALL_DECODERS = tuple(dict.fromkeys(name for names in DECODERS.values() for name in names))
