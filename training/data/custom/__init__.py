"""Custom data sets: from recordings in folders, tables, web pages or Google Drive to labelled windows for training.

manifest    the table of a data set, items.csv: which sounds, of which class, from which recording
ingest      adds sounds to a data set: rejects what is no sound, detects duplicates and known sounds
importers   from a folder of class folders, or from a table of files and links
web         downloads links; `drive` downloads a Google Drive folder
split       train, val and test, with every recording in one subset only
copied      finds re-encoded copies of one sound, which a split keeps together
segments    cuts sounds into windows; `prepare` caches them as a memory map
dataset     a custom data set as `training.data.base.Dataset`
report      statistics, as JSON, a Markdown page and spectrograms
reset       removes everything that can be generated again
"""
