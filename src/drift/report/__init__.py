"""What evaluation, generation and comparison share: run folders, measures, sheets, the page."""
