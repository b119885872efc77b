"""What a trained embedder finds alike: one HTML page with nothing outside it, and a picture."""

from keras_ms.report.contents import Report as Report
from keras_ms.report.contents import collect_report as collect_report
from keras_ms.report.neighbours import draw_neighbours as draw_neighbours
from keras_ms.report.page import write_report as write_report
