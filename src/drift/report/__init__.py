"""What evaluations say together: arms over seeds, gains, the verdict, tables, figures, the page."""
