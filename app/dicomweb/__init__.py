"""DICOMweb: images come by STOW-RS, and results go to a DICOMweb server."""
