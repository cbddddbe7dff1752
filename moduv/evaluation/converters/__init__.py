"""Ground truth of real data sets in this library's form: class-agnostic COCO JSON, one module a data set."""
