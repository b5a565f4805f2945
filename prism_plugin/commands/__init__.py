"""The commands of ``prism``, a file each: ``add(parser)`` says what it takes, ``run(options, console)`` does it."""
