"""Files and how work over them is shared: ids, decoding, image sets, run folders, executors."""
