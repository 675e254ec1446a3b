"""What evaluation, generation and comparison share: run folders, figures, sheets, the page."""
