"""The local web app: the jobs of the command line for people who would rather look than type.

Nothing is computed here that a command could not: a tab asks for a job of the library, which waits
in a queue (`jobs`), and shows what came of it with the command line that gives the same.
"""
