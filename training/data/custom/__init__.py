"""A person's own recordings, from wherever they are to windows of waveform that a trainer can load.

items      the table of a collection: which sounds, of which class, from which recording
intake     takes sounds into it: what is no sound, what came before, the same sound twice
bring      from a folder of class folders, or from a table of files and links
links      from the web; `drive` from a Google Drive folder
split      train, val and test, no recording on both sides
prepare    decoded and cut once, kept as a memory map; `pieces` has the rules of cutting
overview   what is in it, as figures, a page and a picture
reset      back to the sounds and their table
"""
