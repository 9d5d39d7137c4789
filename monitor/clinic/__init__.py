"""The clinic's PostgreSQL: tables, who may do what there, reading that is written down, looking after it. Knows no local timeline."""
