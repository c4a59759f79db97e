"""Analyses over records: why a run hangs, where its time went. They read records and reports, never the engine."""
