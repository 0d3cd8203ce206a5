"""Pages of paragraphs, tables, pictures and verdicts: as Markdown, or as one HTML file."""
