import cProfile,pstats,time
def test_x(federation):
    t=time.process_time()
    federation.begin(num_rounds=30).to_round(2)
    t=time.process_time()
    n=len(federation["node-a"].sent)
    federation.to_round(12)
    print("CPU per round", (time.process_time()-t)/10)
    pr=cProfile.Profile(); pr.enable()
    federation.to_round(22)
    pr.disable()
    pstats.Stats(pr).sort_stats("tottime").print_stats(45)
    pstats.Stats(pr).sort_stats("cumtime").print_stats("coordinator/services|services/coordinator|libs")
    assert 0
