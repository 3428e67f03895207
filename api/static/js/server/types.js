// Types of the API's JSON and of what the panels share. Comments only: no module loads this file at run time.
// Field names are those of the server's schemas (/openapi.json). In the MessagePack form every array is a PackedArray.

/** @import { Matrix } from "../signal/matrix.js" */
/** @import { FrequencyAxis } from "../sound/frequency-axis.js" */

/**
 * @typedef {"queued" | "running" | "succeeded" | "failed" | "cancelled"} JobStatus
 *
 * @typedef {object} Prediction
 * @property {string} class
 * @property {number} confidence            0 to 1
 *
 * @typedef {object} Window
 * @property {number} start                 seconds from the beginning of the sound
 * @property {number} end                   seconds
 * @property {Prediction[]} predictions     most confident first
 * @property {boolean} [active]             whether there is something to hear in it; absent: yes
 * @property {number | null} [known]        open-set score, 0 to 1; null for a model without one
 * @property {Level | null} [level]
 *
 * @typedef {"named" | "unsure" | "unknown" | "silent"} Verdict  how far to trust the first prediction
 *
 * @typedef {object} Level                  0 dBFS is full scale; null for digital silence
 * @property {number | null} peak_dbfs
 * @property {number | null} rms_dbfs
 * @property {number} clipped               share of the samples at full scale, 0 to 1
 * @property {number} dc_offset
 * @property {number | null} bandwidth      Hz, the highest frequency that the sound uses; null for a window
 *
 * @typedef {object} SoundWarning           something that makes the result less certain than it looks
 * @property {string} code                  a key of WARNINGS in verdict.js, or of a newer server
 * @property {string} detail
 *
 * @typedef {object} Detection              a class that is heard in a part of the sound
 * @property {string} class
 * @property {number} start                 seconds from the beginning of the sound
 * @property {number} end                   seconds
 * @property {number} confidence            0 to 1
 * @property {number} peak                  seconds: where it is loudest
 *
 * @typedef {object} PackedArray            little-endian float16, row-major
 * @property {number[]} shape
 * @property {Uint8Array<ArrayBuffer>} data
 *
 * @typedef {object} PackedResult           a result as MessagePack; parts that were not requested are absent or null
 * @property {string} model
 * @property {Prediction[]} predictions     most confident first
 * @property {number} duration              seconds of sound
 * @property {number} sample_rate           Hz, of the uploaded file
 * @property {string} combined              how the windows were combined
 * @property {number} window                index of the window that maps, cam and channels belong to
 * @property {Window[] | null} [windows]
 * @property {Verdict} [verdict]            absent in results of older servers, as all that follow it
 * @property {number | null} [known]
 * @property {Level | null} [level]
 * @property {SoundWarning[]} [warnings]
 * @property {Detection[]} [detections]     empty where they were not requested
 * @property {string[]} [parts]             what was requested
 * @property {PackedArray | null} [spectrogram]       of the window `window`
 * @property {PackedArray | null} [full_spectrogram]  of the whole sound
 * @property {PackedArray | null} [ltsa]     of the whole sound, a column for 1, 2, 4, … frames
 * @property {PackedArray | null} [cam]
 * @property {PackedArray | null} [occlusion]
 * @property {PackedArray | null} [waveform]
 * @property {PackedArray | null} [embedding]
 * @property {Record<string, PackedArray> | null} [maps]
 * @property {Record<string, PackedArray> | null} [channels]
 * @property {PackedArithmetic | null} [arithmetic]
 *
 * @typedef {object} Operation              of the network; see docs/api.md
 * @property {string} kind
 * @property {number} value                 its output
 * @property {number[]} [inputs]            indexes of the operations that compute its inputs
 * @property {string} [name]                of the module, the function or the layer
 * @property {number[]} [place]             channel, row and column of a cell, or of the first number of a patch
 * @property {string} [layer]               from which the patch is cut
 * @property {number[]} [positions]         of each of `inputs` in the patch
 * @property {Record<string, number>} [numbers]  bias, mean, variance, weight, epsilon
 * @property {Numbers} [patch]
 * @property {Numbers} [kernel]             the shape of the patch
 *
 * @typedef {object} Numbers                (channels, rows, columns), row-major
 * @property {number[]} shape
 * @property {Float32Array} values
 *
 * @typedef {object} Arithmetic             how the network computed one number
 * @property {string} cell                  as requested
 * @property {Operation[]} operations       the last one that was computed first
 * @property {number[]} logits              of all classes, where `cell` is a logit
 * @property {number} temperature           divides the logits before the softmax
 *
 * @typedef {Omit<Operation, "patch" | "kernel"> & {patch?: PackedArray, kernel?: PackedArray}} PackedOperation
 *   little-endian float32
 * @typedef {Omit<Arithmetic, "operations"> & {operations: PackedOperation[]}} PackedArithmetic
 *
 * @typedef {object} Result                 a result with its arrays unpacked
 * @property {string} model
 * @property {Prediction[]} predictions     most confident first
 * @property {number} duration              seconds of sound
 * @property {number} sample_rate           Hz, of the uploaded file
 * @property {string} combined              how the windows were combined
 * @property {number} window                index of the window that maps, cam and channels belong to
 * @property {Window[] | null | undefined} windows
 * @property {Verdict} verdict
 * @property {number | null} known          open-set score of the deciding window, 0 to 1
 * @property {Level | null} level           of the whole sound
 * @property {SoundWarning[]} warnings
 * @property {Detection[] | null} detections  by their start; null where they were not requested
 * @property {string} camClass              the class that the class activation map belongs to
 * @property {Matrix | null} spectrogram    dB, mels × frames, of the whole sound where the result has it
 * @property {boolean} [averaged]           whether its columns are means of 1, 2, 4, … frames, as of a long sound; absent from
 *   results that were kept by an earlier page
 * @property {Matrix | null} [detail]       dB, mels × frames, of the window `window`, beside an averaged spectrogram
 * @property {Matrix | null} cam            0 to 1, of the window `window`
 * @property {Matrix | null} [occlusion]    -1 to 1, of the window `window`; absent from results that were kept by an earlier page
 * @property {Matrix | null} waveform       two rows: minimum and maximum of each stretch
 * @property {Float32Array | null} embedding
 * @property {Map<string, Matrix>} maps     layer name -> mean over its channels, of the window `window`
 * @property {Map<string, Matrix[]>} channels  layer name -> its channels; only for a requested layer
 * @property {Arithmetic | null} arithmetic  only for a requested cell
 */

/**
 * @typedef {object} ErrorInfo
 * @property {string} [code]
 * @property {string} [title]
 * @property {string} [detail]
 *
 * @typedef {object} AudioInfo
 * @property {string | null} [name]         of the uploaded file
 * @property {number} bytes
 * @property {string} container
 * @property {string} codec
 * @property {number | null} [sample_rate]  Hz
 * @property {number | null} [channels]
 * @property {number | null} [duration]     seconds, according to the header
 *
 * @typedef {"queue" | "load" | "decode" | "batch" | "forward" | "total"} TimedStage
 *
 * @typedef {object} Job                    a job without its result
 * @property {string} id                    empty for the example, which is no job of the server
 * @property {JobStatus} status
 * @property {string} model
 * @property {string | null} [finished_at]  ISO 8601
 * @property {number | null} [queue_position]  1 is next; null once it runs
 * @property {{done: number, of: number | null} | null} [progress]  windows of a long sound, while it runs
 * @property {Partial<Record<TimedStage, number | null>>} timings  seconds; absent until the stage is over
 * @property {ErrorInfo | null} [error]
 * @property {AudioInfo} audio
 * @property {{audio?: string}} [links]     audio: the sound, where the server keeps it
 *
 * @typedef {Job & {result?: Result | null}} JobWithResult
 */

/**
 * @typedef {object} ReceptiveField         what cell `i` of a layer depends on, along mels and along frames alike:
 * @property {number} start                 `size` cells of the spectrogram from `start + i * stride` on
 * @property {number} stride
 * @property {number} size
 * @property {number | null} [patch]        frames of a patch, the first of which begins at frame 0: a cell depends on no other
 * @property {number} [pooled_frames]       frames of a column: along frames the others count columns; absent: 1
 *
 * @typedef {object} Layer
 * @property {string} name
 * @property {number[]} shape               channels, height, width of one window
 * @property {"input" | "stem" | "residual" | "plain" | "stage"} kind  input: the spectrogram of one of several networks
 * @property {string[]} inputs              names of the layers that feed it; none where the spectrogram does
 * @property {ReceptiveField | null} [receptive_field]
 *
 * @typedef {object} Frontend               the log-mel front end
 * @property {number} n_fft                 samples
 * @property {number | null} [win_length]   samples of the window; null: n_fft
 * @property {boolean} [center]             frame k is centred at k hops (the default), or begins there
 * @property {number} hop                   samples between frames
 * @property {number} n_mels
 * @property {number} f_min                 Hz
 * @property {number} f_max                 Hz
 * @property {"htk" | "slaney" | "kaldi"} [mel_filters]  htk by default
 * @property {number} [preemphasis]         0 by default; otherwise the sound is one sample shorter
 * @property {number} [floor_db]            dB: no cell of a spectrogram is lower
 * @property {"power" | "magnitude"} [spectrum]  what a mel band adds up: powers (the default) or magnitudes
 * @property {number | null} [repeat_pause]  seconds between the repetitions of a sound that is shorter than the window; null: it is
 *   followed by silence (the default)
 * @property {Frontend[]} [stacked]         further spectrograms, for networks side by side that have their own
 *
 * @typedef {object} Architecture
 * @property {string} [type]
 * @property {boolean} [squeeze_excitation]
 * @property {boolean} [feature_pyramid]
 * @property {number} [pyramid_width]       channels of each stage of the pyramid
 * @property {string} [backbone]            name of the timm model, where it is one
 * @property {number[]} [head]              widths of the hidden linear layers
 * @property {number} [patch_frames]        frames that the network takes at once, where it takes patches
 * @property {number} [patch_hop]           frames from one patch to the next
 * @property {number} [pooled_frames]       frames whose mean the network begins with, where it does
 * @property {Record<string, Architecture>} [parts]  the networks by name, where it is several side by side
 * @property {Record<string, {first: number, count: number, every: number}>} [spectrograms]  of which rows of all
 *   spectrograms, and of every how many of their frames, a network's own consists; absent or empty: all have the same
 *
 * @typedef {object} ReliabilityBin         predictions of about the same confidence
 * @property {number} low                   of the confidences, 0 to 1
 * @property {number} high
 * @property {number} sounds
 * @property {number} accuracy              share of the sounds that is right
 *
 * @typedef {object} Accuracy
 * @property {string} data                  name of the data set
 * @property {string} protocol              what it was measured on, in words
 * @property {number} correct
 * @property {number} total
 * @property {ReliabilityBin[]} [reliability]  of whole recordings; empty or absent where not measured
 *
 * @typedef {object} ModelCard
 * @property {string} name
 * @property {string} description
 * @property {string[]} classes
 * @property {boolean} [multi_label]        several classes can be right at once: the confidences do not sum to 1
 * @property {Record<string, string[]>} [parents]  what a class is a kind of, and so on upwards
 * @property {number} sample_rate           Hz
 * @property {number} window_seconds
 * @property {Architecture} architecture
 * @property {Frontend} frontend
 * @property {number} parameters
 * @property {Layer[]} layers
 * @property {Accuracy[]} accuracy
 * @property {string} licence
 *
 * @typedef {object} ModelList
 * @property {string} default
 * @property {ModelCard[]} models
 *
 * @typedef {object} Limits
 * @property {number} max_upload_bytes
 * @property {number} min_seconds
 * @property {number} max_seconds
 * @property {number} min_rate            Hz
 * @property {number} max_rate            Hz
 * @property {number} max_channels
 * @property {string[]} formats             names of the containers
 * @property {string[]} extensions          of file names, such as .wav
 * @property {number} result_ttl            seconds that a finished job is kept
 * @property {boolean} [share_sounds]       whether a sound may be kept as long
 */

/**
 * @typedef {object} SoundRegion            a part of the sound
 * @property {number} start                 seconds
 * @property {number} end                   seconds
 * @property {number} low                   share of the frequency axis of the viewport, 0 at the bottom
 * @property {number} high                  share of that axis
 *
 * @typedef {object} MatrixRegion           a part of a matrix, as shares of its width and height; may reach beyond it
 * @property {number} left
 * @property {number} right
 * @property {number} bottom
 * @property {number} top
 *
 * @typedef {string | Uint8Array<ArrayBuffer>} Colormap  a name, or 256 × red, green, blue, opacity
 *
 * @typedef {object} ColourScale            which colours show which values
 * @property {Colormap} colours
 * @property {number} min                   value of the first colour
 * @property {number} max                   value of the last colour
 *
 * @typedef {ColourScale & {region: MatrixRegion, smooth: boolean}} PaintOptions
 *
 * @typedef {ColourScale & {matrix: Matrix, smooth?: boolean, zero?: number, unit?: string}} ScaledMatrix
 *   zero: the value that is shown as 0. unit: of the values that are shown
 *
 * @typedef {object} PlacedSpectrogram      a spectrogram on the time axis: column k is centred at start + k × step
 * @property {Matrix} matrix                dB, mels × frames
 * @property {number} start                 seconds
 * @property {number} step                  seconds
 * @property {FrequencyAxis} axis           from the bottom of the lowest row to the top of the highest
 * @property {number} fullScale             dB of 0 dBFS; see decibels.js
 * @property {"power" | "magnitude"} spectrum  what a band adds up
 * @property {Repetition | null} repetition  where the sound is repeated to the end of the window
 *
 * @typedef {object} Repetition
 * @property {number} period                seconds after which the sound begins again
 * @property {number} end                   seconds: the end of the window
 *
 * @typedef {object} PlacedCam              a class activation map on the time axis
 * @property {Matrix} matrix                0 to 1
 * @property {number} start                 seconds
 * @property {number} seconds               its length
 * @property {FrequencyAxis} axis           from the bottom of the lowest row to the top of the highest
 */

export {};
