"""The rounds that make MOD-UV: Moving2Mobile, Large2Small, the final detector."""
