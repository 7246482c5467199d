//! Lost tails, damaged items, torn marks, failing disks.
