"""Networks of other projects as model directories: `otoscope models add`.

`registry` lists them, `download` and `sources` read their files, a module for each family converts the weights, and
`add` puts it all together. No weights are part of this repository: they are downloaded, or read from a file or an
installed package, and the model directory states where they came from.
"""
