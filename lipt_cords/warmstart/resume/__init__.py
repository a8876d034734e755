"""Going on after a crash: what is kept in ``work_dir``, and whose it is."""
