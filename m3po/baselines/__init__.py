"""What M3PO is compared with: PEARL (Rakelly et al. 2019) and GrBAL, the paper's L2A (Nagabandi et al. 2019)."""
