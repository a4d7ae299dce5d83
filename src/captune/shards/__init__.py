"""Millions of images: shards in, shards out, by processes of this machine or of a Ray cluster.

A shard is a tar, a file of Parquet or Arrow, or so many images of a folder. Each becomes one file
of Parquet of the same stem, with a row for every image in their order, and `STEM_stats.json` beside
it, the last to appear: a shard without it is not done.

    shard.py      what was asked for -> shards; a shard -> its images, on this machine
    answers.py    images -> rows, by the model of a command
    work.py       one shard in, one shard out: all that a process, a Ray actor or a Slurm task does
    manifest.py   who works on which shard, and what is done of them
    driver.py     what is missing, who does it, and what came of it
    engines.py    processes here; actors of a cluster
    places.py     folders and stores
"""
