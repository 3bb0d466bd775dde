from __future__ import annotations

import csv
import io

from rddkit.papers import Table, escape


def test_nothing_in_a_table_can_run_in_tex() -> None:
    assert escape(r"\input{/etc/passwd} 50 % of $x_1$ & ~#^") == (
        r"\textbackslash{}input\{/etc/passwd\} 50 \% of \$x\_1\$ \& \textasciitilde{}\#\textasciicircum{}"
    )
    assert escape("a\nb\x00\x1b[0m") == "a b[0m"


def test_tex_has_text_left_and_numbers_right() -> None:
    table = Table("per_class", "By class, 50 %", ("class", "F1"), [("D00", "0.5"), ("D10", "-1"), ("D20", "")])
    assert table.tex == (
        "\\begin{table}\n\\centering\n\\caption{By class, 50 \\%}\n\\label{tab:per-class}\n\\begin{tabular}{lr}\n"
        "\\hline\nclass & F1 \\\\\n\\hline\nD00 & 0.5 \\\\\nD10 & -1 \\\\\nD20 &  \\\\\n\\hline\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def test_csv_reads_back() -> None:
    rows = [("a, b", 'say "x"'), ("é", "1")]
    table = Table("t", "", ("one", "two"), rows)
    assert [tuple(row) for row in csv.reader(io.StringIO(table.csv))] == [("one", "two"), *rows]
