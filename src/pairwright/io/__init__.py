"""Files in and out: Parquet and JSONL readers and writers, public layouts, TRL rows."""
