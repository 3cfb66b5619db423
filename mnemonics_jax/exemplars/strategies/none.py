"""No memory: no exemplars are kept."""

select = None
learn = None
