"""Resuming after a crash: what is stored in ``work_dir``, and for which run."""
