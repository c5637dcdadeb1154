"""What the page of a table draws: laid out here, drawn by ``templates/svg.html``."""
