"""What a study leaves behind for people: report.json and report.html."""
