"""From the public raw forms of the real data sets to the layouts that stage 1 reads in place."""
