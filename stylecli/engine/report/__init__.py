"""One HTML page about one or more runs: what went in, what came out, and what went wrong.

`journals` reads what the runs wrote down, `items` finds the pictures it names, `scores` joins what
`style evaluate` measured, `summary` says it in short, and `page` writes it all with `thumbnails`.
"""
