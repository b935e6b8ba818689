"""What results are worth: metrics, evaluation, the report, tables of variants."""
