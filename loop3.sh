cd /tmp/wt/carry
flock /tmp/wt/heavy.lock nice -n 5 bash /tmp/lab/carry/hold3.sh
cd /tmp/lab/carry
flock /tmp/wt/heavy.lock timeout 600 env BF=1 nice -n 5 $P vsub.py k25 512 25000 256000 2000 6 0
