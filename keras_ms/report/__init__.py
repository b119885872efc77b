"""One HTML page that shows what a trained embedder finds alike, with nothing outside it."""

from keras_ms.report.contents import Report as Report
from keras_ms.report.contents import collect_report as collect_report
from keras_ms.report.page import write_report as write_report
