"""What ends a run, in one process, metrics and a page that shows it: python -m sap3d.scores, arguments as of evaluate.

Each by itself is python -m sap3d.scores.evaluate and python -m sap3d.scores.report.
"""

from sap3d.errors import one_line_errors
from sap3d.scores.evaluate import main
from sap3d.scores.report import write_report

if __name__ == "__main__":
    with one_line_errors():
        print(f"report: {write_report(main())}")
