"""Raw download layouts, one file per layout, each read into Samples."""
