t() { echo "\$ prefillshare $*"; timeout ${LIMIT:-120} prefillshare "$@" 2>&1 </dev/null | cut -c1-600; echo "  [rc ${PIPESTATUS[0]}]"; }
