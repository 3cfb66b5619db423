"""What a run needs on TPU slices and GPUs, found out without them.

Files: `chips`, names of slices and what a chip has; `request`, the command and
the shapes of data that are not read; `compiling`, a program in a process of its
own; `hlo`, reads compiled programs; `table`, what the command prints.
"""
