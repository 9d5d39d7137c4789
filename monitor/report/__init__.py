"""Reports of days: what goes into one, and how it is written as text, plain sentences, JSON, CSV, FHIR, a page, a sheet and a PDF."""
