"""Measurements against other ways to do the same: each in one thread, unless it says otherwise."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before NumPy and FAISS are imported
