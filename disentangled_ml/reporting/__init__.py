"""Reports: as text, as a page, and as a comparison of systems beside what the paper reports."""
