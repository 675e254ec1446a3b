"""What evaluations say together: gains, verdict, tables, plots and the page.

In: run folders with evaluations. Out: tables, figures and report.html. Start reading at
`compare.compare`.
"""
